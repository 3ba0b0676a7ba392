"""`primia-worker doctor`: would this site take part, and what has to be mended if not.

It only looks: nothing in the state folder is locked or written, and no round hears of it, so it may
run beside the daemon, and before this site is enrolled. `examine` goes through everything,
`report` says what was found; each of the other modules looks at one thing.
"""
