"""Between front-end processes and the engine process: messages, and tensors in shared memory.

May import the scheduler's plain data and registry. Whatever is sent is answered exactly once,
or the link is lost and everything open on it fails.
"""
