"""How shipped files were made, so that anyone can make them again: `python -m medassist maintain …`."""
