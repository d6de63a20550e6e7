"""Settings of the objectives. Nothing heavy is imported here, so that a mistyped key is answered at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from specfm.config import Strict
from specfm.engine.config import NonNegative, Positive

if TYPE_CHECKING:
    from pretrain.pairs.pairing import Pairs

MIN_TEMPERATURE = 0.025  # exp((s - 1) / T) stays a normal float32 number for every cosine s: exp(-80)


class NegativesConfig(Strict):
    """Which pairs are no true negatives.

    Attributes:
        same_instance: pairs of one ``instance_id`` (window neighbourhood, specimen).
        overlap: pairs of windows that share a pixel of one scene.
        near: pairs nearer than the radius that the pairing measured (``pairs.near``), where it measured one.
        within: ``domain``: only samples of the anchor's domain are negatives, so that domains need not be told apart.
        spectral: pairs whose raw mean spectra have a cosine above ``cosine`` on their common covered range.
        cosine: from which spectra count as alike, see ``spectral``.
        min_common_share: how much common range a comparison of spectra needs, as a share of the smaller coverage; less,
            and spectra exclude nothing.
        min_common_bins: the same in bins of 4 % width.
        max_share: at most this share of an anchor's negatives is touched, the most certain and most similar first.
        mode: ``exclude`` or ``downweight`` (by ``weight``).
        weight: of negatives that are downweighted, see ``mode``.
    """

    same_instance: bool = True
    overlap: bool = True
    near: bool = True
    within: Literal["batch", "domain"] = "batch"
    spectral: bool = True
    cosine: float = Field(default=0.99, ge=-1.0, le=1.0)
    min_common_share: float = Field(default=0.5, ge=0.0, le=1.0)
    min_common_bins: int = Field(default=8, ge=1)
    max_share: float = Field(default=0.5, ge=0.0, le=1.0)
    mode: Literal["exclude", "downweight"] = "exclude"
    weight: float = Field(default=0.1, ge=0.0, le=1.0)

    def touches(self, pairs: Pairs) -> bool:
        """Whether any pair could be touched."""
        near = self.near and pairs.nearness is not None
        some = self.same_instance or self.overlap or self.spectral or near
        return self.within == "domain" or (some and self.max_share > 0)


class ProjectionConfig(Strict):
    """Projection head (lightly's, without BatchNorm).

    Attributes:
        hidden: width of hidden layers.
        dim: width of what the loss compares.
        layers: 0 has no head: the loss is on the features that will be used. Default: 2 for two views of a sample,
            which differ in what features had better keep; 0 where partners are other samples, since a head then keeps
            what is learnt out of the features.
    """

    hidden: Positive = 256
    dim: Positive = 128
    layers: NonNegative | None = None
    norm: bool = Field(default=True, description="LayerNorm after each hidden layer")


class NtXentConfig(Strict):
    """NT-Xent and its negatives.

    Attributes:
        weight: factor of the loss.
        temperature: of the similarities; smaller looks at the nearest negatives more.
    """

    weight: Annotated[float, Field(ge=0)] = 1.0
    temperature: Annotated[float, Field(ge=MIN_TEMPERATURE)] = 0.2
    tile: Annotated[int, Field(ge=2)] = Field(default=1024, description="rows of logits held at once")
    negatives: NegativesConfig = NegativesConfig()
    projection: ProjectionConfig = ProjectionConfig()


class LocalConfig(Strict):
    """NT-Xent between places.

    Attributes:
        weight: factor of the loss; with ``nt_xent`` beside it, the two weights mix the local and the global loss.
        temperature: divides the cosines.
        projection: of tokens.
    """

    weight: float = Field(default=1.0, ge=0.0)
    temperature: float = Field(default=0.2, ge=MIN_TEMPERATURE)
    projection: ProjectionConfig = ProjectionConfig()


class VicRegConfig(Strict):
    """VICReg; the three factors are the paper's.

    Attributes:
        weight: factor of the loss.
        invariance: factor of the mean squared difference between the two views.
        variance: factor of what a feature's deviation lacks to 1.
        covariance: factor of the squared covariances between features, summed over pairs and divided by E.
        eps: added to variances before the root.
        projection: what the loss is worked out on. The paper's is wide (three layers of 8192 for features of 2048).
    """

    weight: float = Field(default=1.0, ge=0.0)
    invariance: float = Field(default=25.0, ge=0.0)
    variance: float = Field(default=25.0, ge=0.0)
    covariance: float = Field(default=1.0, ge=0.0)
    eps: float = Field(default=1e-4, gt=0.0)
    projection: ProjectionConfig = ProjectionConfig()


class DecoderConfig(Strict):
    """The decoder, which only training needs; HyperLinear reads it out.

    Attributes:
        width: of its blocks.
        depth: how many.
        heads: of a block.
        rank: of the readout.
        code_width: of band codes.
    """

    width: int = Field(default=128, ge=4, multiple_of=4)
    depth: int = Field(default=2, ge=0)
    heads: int = Field(default=4, ge=1)
    rank: int = Field(default=16, ge=1)
    code_width: int = Field(default=128, ge=4, multiple_of=4)


class MaskedConfig(Strict):
    """Masked modelling.

    Attributes:
        weight: factor of the loss.
        mask: ``patches`` hides patches, ``ranges`` contiguous ranges of wavelengths of all patches, ``both`` does both:
            whole patches, and ranges of those that are left.
        ratio: share of the patches hidden.
        range_share: share of the covered wavelengths hidden, in ``ranges`` ranges.
        ranges: how many, see ``range_share``.
        target: ``plain`` values over the level of what is visible; each ``pixel``'s or ``patch``'s values less their
            mean, over their deviation; or ``whitened``: the spectrum over its level, whitened by the noise of its own
            acquisition (:mod:`specfm.models.whitening`, from pixels of the shards, before the first step).
        bands: read per sample at most, drawn anew each step; None reads all.
        charbonnier: factor of the Charbonnier term beside ``1 - cosine`` along the spectrum.
        eps: of it, in units of the target.
        window_start: spectra are cut to a contiguous window of this share of the covered wavelengths at first, outside
            which nothing is shown or predicted.
        window_steps: steps over which it widens to all of them.
        published: exactly as SpecAware publishes it, for ``model.embedding=specaware``: all patches are embedded before
            some are hidden, bands count alike whatever their width, band codes are the embedding's, dropout of .1, and
            predictions start at 0.
        decoder: see :class:`DecoderConfig`.
    """

    weight: float = Field(default=1.0, ge=0.0)
    mask: Literal["patches", "ranges", "both"] = "patches"
    ratio: float = Field(default=0.75, gt=0.0, lt=1.0)
    range_share: float = Field(default=0.3, gt=0.0, lt=1.0)
    ranges: int = Field(default=2, ge=1)
    target: Literal["plain", "pixel", "patch", "whitened"] = "plain"
    bands: int | None = Field(default=None, ge=1)
    charbonnier: float = Field(default=2.0, ge=0.0)
    eps: float = Field(default=1e-3, gt=0.0)
    window_start: float = Field(default=1.0, gt=0.0, le=1.0)
    window_steps: int = Field(default=0, ge=0)
    published: bool = False
    decoder: DecoderConfig = DecoderConfig()

    @model_validator(mode="after")
    def _acts(self) -> MaskedConfig:
        fields = type(self).model_fields
        if (self.window_start < 1) != (self.window_steps > 0):
            raise ValueError(
                "masked.window_start is the share that a window has at first, and masked.window_steps says over how "
                "many steps it widens; give both, or neither (window_start=1 window_steps=0)"
            )
        idle = {"patches": ("range_share", "ranges"), "ranges": ("ratio",)}.get(self.mask, ())
        for key in idle:
            if getattr(self, key) != fields[key].default:
                raise ValueError(
                    f"masked.{key} does nothing with masked.mask={self.mask}; leave it at "
                    f"{fields[key].default}, or mask both"
                )
        return self


class PredictorConfig(Strict):
    """The predictor, which only training needs: ViT blocks over visible and mask tokens.

    Attributes:
        width: of its blocks.
        depth: how many.
        heads: of a block.
    """

    width: int = Field(default=96, ge=4, multiple_of=4)
    depth: int = Field(default=2, ge=1)
    heads: int = Field(default=3, ge=1)

    @model_validator(mode="after")
    def _divisible(self) -> PredictorConfig:
        if self.width % self.heads:
            raise ValueError(f"predictor.width {self.width} is not a multiple of its {self.heads} heads; change one")
        return self


class LatentConfig(Strict):
    """Masked prediction in a teacher's features.

    Attributes:
        weight: factor of the loss.
        ratio: share of the patches hidden from the student.
        target: what the teacher sees. ``full``: the student's crop with all bands, without noise, gain or holes;
            ``view``: the student's view; ``other``: the other view, at the places that both show (with
            ``pairs.kind=same_object``, the other sensor's or date's).
        blocks: of the teacher's, the last ones whose tokens are averaged; each token is normalised over its features.
        momentum: share of the teacher kept in a step, at first.
        momentum_end: at the end of a straight line.
        momentum_steps: steps of that line.
        beta: difference at which the loss goes over from squared to absolute (smooth L1).
        predictor: see :class:`PredictorConfig`.
    """

    weight: float = Field(default=1.0, ge=0.0)
    ratio: float = Field(default=0.6, gt=0.0, lt=1.0)
    target: Literal["full", "view", "other"] = "full"
    blocks: int = Field(default=1, ge=1)
    momentum: float = Field(default=0.99, ge=0.0, lt=1.0)
    momentum_end: float = Field(default=0.999, ge=0.0, le=1.0)
    momentum_steps: int = Field(default=1000, ge=0)
    beta: float = Field(default=1.0, gt=0.0)
    predictor: PredictorConfig = PredictorConfig()


class TeacherConfig(Strict):
    """Features of a finished encoder as targets: distillation without labels.

    Attributes:
        weight: factor of the loss.
        encoder: the teacher: a release, checkpoint or run folder, or a name that comes with specfm.
        beta: difference at which the loss goes over from squared to absolute (smooth L1).
    """

    weight: float = Field(default=1.0, ge=0.0)
    encoder: str = "real_nano"
    beta: float = Field(default=1.0, gt=0.0)


class BandPredictionConfig(Strict):
    """The joint term.

    Attributes:
        weight: factor of the term in the loss; 0 switches it off.
        targets: bands predicted per sample and view at most.
        per: ``token`` predicts each patch's mean from its token, ``pooled`` the crop's mean from the pooled feature.
        seen_share: share of the bands that are targets where the view held none out.
        rank: of the readout.
        cosine_weight: of ``1 - cosine`` along the spectrum beside the Charbonnier term.
        eps: of the Charbonnier term, in units of the sample's level.
    """

    weight: float = Field(default=1.0, ge=0.0)
    targets: int = Field(default=24, ge=1)
    per: Literal["token", "pooled"] = "token"
    seen_share: float = Field(default=0.25, gt=0.0, le=1.0)
    rank: int = Field(default=64, ge=1)
    cosine_weight: float = Field(default=1.0, ge=0.0)
    eps: float = Field(default=1e-3, gt=0.0)
