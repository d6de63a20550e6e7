"""Which bands a probe of frozen features rests on, and how many of which bands are enough: tables and plots.

``ranges`` is what both share; ``judge``, ``occlusion`` and ``gradients`` are what ``run`` puts together, with
signatures of the classes, for ``specfm explain``; ``compare`` is ``specfm compare-bands``; ``figures`` draws, ``files``
writes.
"""
