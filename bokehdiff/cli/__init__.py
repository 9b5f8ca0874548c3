"""The doors: `bokehdiff COMMAND`, one file per command. Nothing else in the package imports from here."""
