"""What may differ between a checkpoint's configuration and the one that goes on from it; all else may not."""

from __future__ import annotations

from bokehdiff.training.policy import Policy

BASELINE_POLICY = Policy(
    free=frozenset(
        {
            "network.init_from",  # a checkpoint holds what came of it
            "data.dataloader_num_workers",
            "data.prefetch_batches",
            "levels.first_level",
            "levels.last_level",
            "loss.vgg_weights",
            "validation.validation_steps",
            "run.output_dir",
            "run.checkpointing_steps",
            "run.checkpoints_total_limit",
            "run.resume_from_checkpoint",
            "run.preview_steps",
            "run.report_to",
            "run.dry_run",
        }
    ),
    noted=frozenset(
        {
            "data.train_data_dir",
            "data.pairs",
            "data.compose_on",
            "data.mirror",
            "data.turn",
            "data.shuffle_buffer",
            "levels.level_steps",
            "levels.level_batch_sizes",
            "levels.coarse_lambda_l1",
            "loss.lambda_l1",
            "loss.lambda_vgg",
            "loss.lambda_ssim",
            "loss.vgg_inputs",
            "loss.lambda_adversarial",
            "loss.lambda_penalty",
            "optimizer.learning_rate",
            "optimizer.critic_learning_rate",
            "optimizer.adam_beta1",
            "optimizer.adam_beta2",
            "optimizer.adam_epsilon",
            "optimizer.max_grad_norm",
            "optimizer.lr_scheduler",
            "optimizer.lr_warmup_steps",
            "validation.validation_data_dir",  # which pairs training may see depends on those that it may not
            "validation.validation_samples",
            "run.max_train_steps",
            "run.train_batch_size",
            "run.gradient_accumulation_steps",
            "run.mixed_precision",
            "run.allow_tf32",
        }
    ),
)
