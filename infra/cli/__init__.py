"""`pretrain`: what operators and researchers type.

main.py       the commands
target.py     which AWS: an account, or the embedded one
observe.py    an execution's history, metrics and logs -> RunView
progress.py   RunView: stages and legs as they stand (pure)
screen.py     RunView as a live screen, or as lines for a pipe
local.py      the embedded AWS: up, run, status, down, clean
"""
