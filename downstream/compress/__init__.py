"""Smaller and faster models, and what it costs: `specfm compress`.

config.py      scenes, models, pipelines of steps       ground.py   a labelled scene under its splits, in memory
objectives.py  what a student minimises; losses.py: the formulas; online.py: peers that learn together
structured.py  channels, heads, blocks taken out; magnitude.py: least weights to zero, packed.py: stored so
aware.py       quantisation-aware training (integers are written by specfm/deploy)
train.py       one training; stages.py: the steps of a pipeline, each kept
deployed.py    a model as its file, judged there; measure.py, peak.py: what files cost; costs.py: all of a scene in turn
run.py         the benchmark; its tables and pictures are of downstream/report/compression.py
"""
