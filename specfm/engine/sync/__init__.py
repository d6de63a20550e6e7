"""How processes keep their weights together.

all_reduce.py   what the loop asks of any way (:class:`~specfm.engine.sync.all_reduce.Sync`), and the usual one: the sum
                of gradients over all processes, before every update
averaging.py    DS-Sync and local SGD: own updates, then weights averaged in the group of the step
layouts.py      who is in which group at which step
flags.py        bad steps and stop signals, told from group to group until all know
buckets.py      many tensors in few flat ones, on their way while the program goes on
own_state.py    optimiser moments that differ between processes, in checkpoints
config.py       the settings; choose.py: from settings to the way
"""
