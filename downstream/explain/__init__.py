"""Which bands a probe of frozen features rests on, and how many of which bands are enough: tables and plots.

``ranges`` and ``judge`` are what both share; ``occlusion``, ``gradients`` and ``signatures`` are what ``run`` puts
together for ``specfm explain``; ``compare`` is ``specfm compare-bands``; ``figures`` draws, ``files`` writes.
"""
