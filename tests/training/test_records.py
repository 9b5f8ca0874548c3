from __future__ import annotations

from bokehdiff.images import load_photo
from bokehdiff.training.records import LOG_FILE, append_record, draw_loss_curve, read_records, truncate_records


def test_log_forgets_what_a_resumed_run_does_again(tmp_path):
    for n_steps in range(1, 6):
        append_record(tmp_path, {"n_steps": n_steps, "n_samples_seen": 2 * n_steps, "loss": 1.0 / n_steps})
    with (tmp_path / LOG_FILE).open("a") as stream:
        stream.write('{"n_steps": 6, "lo')
    truncate_records(tmp_path, 3)
    assert [record["n_steps"] for record in read_records(tmp_path)] == [1, 2, 3]
    truncate_records(tmp_path / "nowhere", 3)
    assert read_records(tmp_path / "nowhere") == []


def test_loss_curve_is_a_picture_with_something_on_it(tmp_path):
    for n_steps in range(1, 30):
        append_record(
            tmp_path, {"n_steps": n_steps, "n_samples_seen": n_steps, "loss": 1.0 / n_steps, "mse": 0.5 / n_steps}
        )
    image_srgb = load_photo(draw_loss_curve(tmp_path)).image_srgb
    assert min(image_srgb.shape[-2:]) > 300
    assert image_srgb.std() > 0.05
