"""One file for each thing that is measured: `python -m medassist bench …`."""
