"""One script per figure, one runner, one style; `python -m figures --list` names them."""
