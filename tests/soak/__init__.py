"""``make soak``: the lives of many pods on one daemon that is killed now and then, and nothing of it may stay.

    python -m tests.soak --pods 1000 --seed 7

Each pod's life (``life.py``) is drawn by lot from a seed: containers, logs and their rotation, execs, attach,
port-forward, pulls that work and pulls that fail. ``subject.py`` is the daemon under test, killed at random
moments; requests that this cuts off are repeated, as a kubelet repeats them. ``picture.py`` says what there is on the
host, and what has come to it since the start.
"""
