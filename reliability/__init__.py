"""A hard life for shardwise, run on purpose: `python -m reliability --minutes 10`.

Each part does to shardwise what a long life may, and compares every answer with one that was had in
another way. A part that finds a fault prints how to have it again, and the exit code is 1.
"""
