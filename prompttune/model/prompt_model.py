"""The model of R runs: learned context (coupled or not) -> class features, frames -> video features, logits.

    class names -> Vocabulary -> LearnedContext -> TextEngine -> class_features [R C E]
    tokens [R B F S D] -> LearnedVisual -> frame features [R B F E] or, without visual prompts, those of the store
    frame features [R B (F) E] -> head -> video_features [R B E]          logits = s video_features . class_features

The prompts own what trains: everything trainable below a PromptModel is a RunParameter, and the towers are none of its
modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prompttune.base.devices import without_autocast
from prompttune.base.run_axis import n_parameters_per_run, parameters_of_run
from prompttune.base.unit import unit
from prompttune.config.train_config import TrainConfig
from prompttune.data.features import AnchorBatch, Batch
from prompttune.errors import ConfigError, PromptFileError, explain, some
from prompttune.losses.mixup import Mix
from prompttune.losses.terms import AnchorTensors, StepTensors
from prompttune.model.class_sampling import (
    EVERY_RUN,
    anchors_of_run,
    encode_sampled,
    of_run,
    places_of,
    with_negatives,
)
from prompttune.parts.class_adapters import ClassProbe, FittedAdapter
from prompttune.parts.heads import Head, build_head
from prompttune.parts.learned_context import LearnedContext
from prompttune.parts.learned_visual import LearnedVisual
from prompttune.text.class_prompts import ClassPrompts, clean_class_name
from prompttune.text.engine import TextContext, TextEngine
from prompttune.text.vocabulary import TextPass, Vocabulary
from vidfeat.backbone import BackbonePack, PromptableText

_VIDEOS_PER_TEXT_PASS = 16  # where every video has its own class features: bounds the rows in the text tower


class PromptModel(nn.Module):
    """The trainable parts of R runs over one frozen backbone.

    Args:
        config: decides which parts there are.
        pack: the backbone.
        seeds: one per run.
        classes: the training classes; a context per class has one for each.
        hard_prompts: frozen context tokens [M W] for the coupling.
        device: where it computes.

    Raises:
        ConfigError: parts that this backbone cannot have.
    """

    def __init__(
        self,
        config: TrainConfig,
        pack: BackbonePack,
        *,
        seeds: Sequence[int],
        classes: Sequence[str],
        hard_prompts: Sequence[Tensor] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.config, self.pack, self.seeds = config, pack, tuple(seeds)
        self.device = torch.device(device)
        # A learned context asks for a tower whose blocks run here; features of whole texts come from any.
        if config.context.kind != "none":
            pack.config.open_text  # noqa: B018 - says why not
        tower = cast(PromptableText, pack.frozen_text().to(self.device))
        self.text_engine = TextEngine(tower, class_chunk=config.class_chunk or None, checkpoint=config.recompute)
        self._trained_classes = tuple(classes)
        self._vocabularies: dict[tuple[str, ...], Vocabulary] = {}
        self.logit_scale = config.head.logit_scale or pack.config.logit_scale
        self.context: LearnedContext | None = None
        if config.context.kind != "none":
            self.context = LearnedContext(
                config, pack, seeds=self.seeds, n_classes=len(self._trained_classes), hard_prompts=hard_prompts
            )
        self.visual: LearnedVisual | None = None
        if config.visual is not None:
            self.visual = LearnedVisual(config.visual, pack, seeds=self.seeds, device=self.device)
        self.head: Head = build_head(config.head, embed_dim=pack.config.embed_dim, seeds=self.seeds)
        self.fitted: FittedAdapter | None = None
        if config.head.adapter == "linear-probe":
            self.fitted = ClassProbe(classes, embed_dim=pack.config.embed_dim, n_runs=len(self.seeds))
        self.to(self.device)

    @property
    def n_runs(self) -> int:
        return len(self.seeds)

    @property
    def n_parameters(self) -> int:
        """Trained numbers of one run."""
        return n_parameters_per_run(self)

    def vocabulary(self, names: Sequence[str]) -> Vocabulary:
        """The classes as the model meets them.

        Raises:
            ClassPromptError: names whose prompts do not fit the text tower.
        """
        names = tuple(names)
        if names not in self._vocabularies:
            self._vocabularies[names] = self._make_vocabulary(names)
        return self._vocabularies[names]

    def _make_vocabulary(self, names: tuple[str, ...]) -> Vocabulary:
        if self.config.context.kind == "class" and names != self._trained_classes:
            raise ConfigError(
                explain(
                    "a context per class knows the classes it is trained on and no others",
                    expected=f"{len(self._trained_classes)} classes: {some(self._trained_classes, 4)}",
                    got=f"{len(names)} classes: {some(names, 4)}",
                    fix="classify and test among the classes it was trained on; to train for others: "
                    "--set protocol.name=few-shot, or --set context.kind=shared",
                )
            )
        texts = self.class_texts(names)
        prompts = None
        if self.context is not None:
            context, behind = self.config.context, self.config.context.words_behind
            template = f"{behind} {{}}." if behind else None
            prompts = ClassPrompts.build(
                list(texts),
                self.pack.tokenizer(),
                n_ctx=self.context.n_ctx,
                position=context.position,
                template=template,
            )
        return Vocabulary(names, texts, prompts, self.frozen_text(texts))

    def class_texts(self, names: Sequence[str]) -> tuple[str, ...]:
        """The words that stand for class names in prompts."""
        cleaning = self.config.templates.model_dump(include={"split_camel_case", "replace_underscores"})
        return tuple(clean_class_name(name, **cleaning) for name in names)

    def frozen_text(self, texts: Sequence[str], templates: Sequence[str] = ()) -> Tensor:
        """Unit features of words in the hand-written templates, float32 [len(texts) E]; of several templates the mean
        of the unit features (or of the features as they are, `templates.average`), of unit length again.

        Source: Radford et al. 2021, section 3.1.4 for the ensemble; muzairkhattak/PromptSRC@8be7dcf
        trainers/promptsrc.py `fixed_embeddings` for features as they are.
        """
        templates = templates or self.config.templates.ensemble or (self.config.templates.zero_shot,)
        total = torch.zeros(len(texts), self.pack.config.embed_dim, device=self.device)
        for template in templates:
            written = [template.format(text) for text in texts]
            # Once per run, so in full precision whatever the training runs in.
            with without_autocast(self.device.type):
                features = self.text_engine.encode_frozen(written, self.pack.tokenizer()).to(self.device).float()
            total = total + (features if self.config.templates.average == "raw" else F.normalize(features, dim=-1))
        return F.normalize(total, dim=-1)

    def prompt_texts(self, names: Sequence[str]) -> dict[str, str]:
        """The exact prompt of each class; `[M]` stands for M learned vectors."""
        vocabulary = self.vocabulary(names)
        if vocabulary.prompts is None:
            templates = self.config.templates.ensemble or (self.config.templates.zero_shot,)
            return {
                name: " | ".join(template.format(text) for template in templates)
                for name, text in zip(vocabulary.names, vocabulary.texts, strict=True)
            }
        before, n_ctx = vocabulary.prompts.n_ctx_before, vocabulary.prompts.n_ctx
        front, behind = (f"[{n}] " if n else "" for n in (before, n_ctx - before))
        words = f"{self.config.context.words_behind} ".lstrip()
        return {
            name: f"{front}{words}{text}{' ' + behind.rstrip() if behind else ''}."
            for name, text in zip(vocabulary.names, vocabulary.texts, strict=True)
        }

    def class_features(
        self, vocabulary: Vocabulary, videos: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Unit class features, float32 [R C E]; [R B C E] where they depend on the video; of K `classes`: K for C.

        Args:
            videos: unit video features [R B E], looked at where the context depends on the video.
            classes: places in the vocabulary of the classes that each run encodes, int64 [R K]; None for all.
        """
        if vocabulary.prompts is None or self.context is None:
            return vocabulary.frozen_of(classes, n_runs=self.n_runs)
        context = self._text_context(vocabulary, videos)
        if classes is None:
            return unit(self.text_engine.encode(vocabulary.prompts, context).float())
        return unit(encode_sampled(self.text_engine, vocabulary.prompts, context, classes).float())

    def _text_context(self, vocabulary: Vocabulary, videos: Tensor | None) -> TextContext:
        assert self.context is not None
        return self.context(frozen_classes=vocabulary.frozen, videos=videos, visual_rows=self._visual_rows())

    def _visual_rows(self) -> tuple[Tensor, ...]:
        """Visual prompts that the text prompts are made of; none where they are not."""
        own = self.context is not None and self.context.from_visual is not None and self.visual is not None
        return self.visual.prompts().rows if own and self.visual is not None else ()

    @torch.no_grad()
    def text_pass(self, names: Sequence[str]) -> TextPass | None:
        """What one training step sends through the text tower; None where no context is learned."""
        if not names or self.context is None:
            return None
        vocabulary = self.vocabulary(names)
        assert vocabulary.prompts is not None
        videos = torch.zeros(self.n_runs, 1, self.pack.config.embed_dim, device=self.device)
        context = self._text_context(vocabulary, videos)
        n_images = self.config.optim.batch_size if self.depends_on_video else 1
        return TextPass(self.text_engine, vocabulary.prompts, context, n_images)

    @property
    def depends_on_video(self) -> bool:
        """Whether every video has class features of its own."""
        return self.config.context.kind == "image"

    def frame_features(self, features: Tensor, tokens: Tensor | None) -> Tensor:
        """What the head is given: the frozen `features` as they are, or frames [R B F E] of `tokens` [R B F S D]
        through the visual prompts ([1 B F S D] where all runs see the same)."""
        if self.visual is None:
            return features
        if tokens is None:
            raise ValueError("visual prompts need the tokens that enter the first prompted block")
        rows = self.context.soft_rows() if self.visual.from_text is not None and self.context is not None else ()
        return self.visual(tokens, rows)

    def video_features(self, features: Tensor) -> Tensor:
        """Unit video features float32 [R B E] of frame features [R B E] or [R B F E]."""
        return unit(self.head(features).float())

    def logits(self, video_features: Tensor, class_features: Tensor) -> Tensor:
        """Scaled cosines [R B C] of unit [R B E] and [R C E] (or [R B C E] where classes depend on the video)."""
        if class_features.dim() == 4:
            return self.logit_scale * torch.einsum("rbe,rbce->rbc", video_features, class_features)
        return self.logit_scale * torch.einsum("rbe,rce->rbc", video_features, class_features)

    def predicted_logits(
        self, features: Tensor, class_features: Tensor, names: Sequence[str], *, known: Tensor | None = None
    ) -> Tensor:
        """The method's logits [R B C] of frame features [R B E] or [R B F E]: scaled cosines, then the fitted adapter.

        Args:
            known: their `video_features`, if they are known.

        Raises:
            ConfigError: an adapter that is made of training videos, in a model that never saw them.
        """
        video_features = self.video_features(features) if known is None else known
        if self.head.spots_concepts:
            logits = self.logit_scale * self.head.scores(features.float(), class_features)
        else:
            logits = self.logits(video_features, class_features)
        if self.fitted is not None:
            return self.fitted.logits(logits, video_features, names)
        if self.config.head.adapter == "tip-adapter":
            raise ConfigError(
                explain(
                    "Tip-Adapter's cache is its training videos, which a prompt file does not hold",
                    fix="prompttune train, which evaluates; only prompts and probes can be evaluated from their files",
                )
            )
        return logits

    def classifier(self, names: Sequence[str]) -> Callable[[Tensor], Tensor]:
        """A function from frame features [R B E] or [R B F E] to logits [R B C]; the classes are encoded once, now."""
        vocabulary = self.vocabulary(names)
        if self.depends_on_video:
            return lambda features: self._logits_by_video(features, vocabulary)
        class_features = self.class_features(vocabulary)
        return lambda features: self.predicted_logits(features, class_features, names)

    def _logits_by_video(self, features: Tensor, vocabulary: Vocabulary) -> Tensor:
        parts = []
        for few in features.split(_VIDEOS_PER_TEXT_PASS, dim=1):
            class_features = self.class_features(vocabulary, self.video_features(few))
            parts.append(self.predicted_logits(few, class_features, vocabulary.names))
        return torch.cat(parts, dim=1)

    def steps(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        *,
        anchors: AnchorBatch | None = None,
        mix: Mix | None = None,
        classes: Tensor | None = None,
        with_frozen: bool = True,
    ) -> tuple[StepTensors, ...]:
        """Everything the loss terms may look at, of one batch: in one for all runs; or one per run, among its own
        `classes`: ascending places of classes, int64 [R K]. Frozen video features and logits are in it if a term asks
        for them (`with_frozen`)."""
        shown, frozen_frames = self.frame_features(batch.features, batch.tokens), batch.features
        if mix is not None:
            frozen_frames = mix.features(frozen_frames)
            shown = frozen_frames if self.visual is None else mix.features(shown)
        video_features = self.video_features(shown)
        frozen_videos = unit(self.head.mean(frozen_frames)) if with_frozen else None
        labels, runs, frozen_of_runs = batch.labels, [EVERY_RUN], [vocabulary.frozen]
        if classes is not None:
            classes = classes.to(self.device)
            labels, frozen_of_runs = places_of(labels, classes), list(vocabulary.frozen[classes])
            runs = [slice(run, run + 1) for run in range(self.n_runs)]
        class_features, found = self._classes_and_anchors(vocabulary, anchors, video_features, classes)
        # Losses are taken in float32 whatever the towers ran in.
        with without_autocast(self.device.type):
            # With a gradient they are taken twice, so that its sum keeps its order, and trainings their bits.
            known = None if video_features.requires_grad else video_features
            logits = self.predicted_logits(shown, class_features, vocabulary.names, known=known)
            frozen_logits = None
            if frozen_videos is not None:
                frozen_logits = self.logits(frozen_videos, vocabulary.frozen_of(classes, n_runs=self.n_runs))
            targets = None if mix is None else mix.targets(labels, logits.shape[-1])
            return tuple(
                StepTensors(
                    logits=of_run(logits, run),
                    labels=of_run(labels, run),
                    video_features=of_run(video_features, run),
                    class_features=of_run(class_features, run),
                    frozen_class_features=frozen,
                    frozen_logits=of_run(frozen_logits, run),
                    logit_scale=self.logit_scale,
                    frozen_video_features=of_run(frozen_videos, run),
                    targets=of_run(targets, run),
                    anchors=anchors_of_run(found, run),
                )
                for run, frozen in zip(runs, frozen_of_runs, strict=True)
            )

    def _classes_and_anchors(
        self, vocabulary: Vocabulary, anchors: AnchorBatch | None, videos: Tensor, classes: Tensor | None
    ) -> tuple[Tensor, AnchorTensors | None]:
        if anchors is None:
            return self.class_features(vocabulary, videos, classes), None
        # Negatives go through the tower as further classes of the same pass: one context, one dropout mask.
        joint, n_classes = anchors.joint, len(vocabulary) if classes is None else classes.shape[1]
        together = classes if joint is None else with_negatives(classes, n_classes=len(vocabulary), n_all=len(joint))
        features = self.class_features(joint or vocabulary, videos, together)
        anchor_features = self.video_features(self.frame_features(anchors.features, anchors.tokens))
        own_classes = self.class_features(vocabulary, anchor_features, classes) if self.depends_on_video else None
        task_features = features if joint is None else features[:, :n_classes]
        return task_features, AnchorTensors(
            anchor_features=anchor_features,
            frozen_anchor_features=F.normalize(self.head.mean(anchors.features), dim=-1),
            frozen_negative_features=anchors.frozen_negatives,
            negative_features=features[:, n_classes:] if joint is not None else None,
            class_features=own_classes,
        )

    def exported_context(self, run: int) -> Tensor | None:
        """Run `run`'s context [M W] as it enters the text tower in evaluation, see `LearnedContext.exported`."""
        return None if self.context is None else self.context.exported(run, self._visual_rows())

    def trained_state(self) -> dict[str, Tensor]:
        """Parameters, buffers and generator states by name; the towers are not in it."""
        return {name: value for name, value in self.state_dict().items() if isinstance(value, Tensor)}

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Sets what `trained_state` gave.

        Raises:
            PromptFileError: tensors that this model does not have, or lacks.
        """
        try:
            self.load_state_dict(dict(state), strict=True)
        except RuntimeError as error:
            raise PromptFileError(explain("saved tensors of another model", got=error)) from None

    def run_tensors(self, run: int) -> dict[str, Tensor]:
        """What run `run` learned, by name, without the run axis; frozen buffers included."""
        learned = parameters_of_run(self, run)
        return {name: value.detach().cpu().clone() for name, value in [*learned.items(), *self.named_buffers()]}

    @torch.no_grad()
    def load_run_tensors(self, run: int, tensors: Mapping[str, Tensor]) -> None:
        """Sets what `run_tensors` gave.

        Raises:
            PromptFileError: a missing tensor, or one of another shape.
        """
        targets = {**parameters_of_run(self, run), **dict(self.named_buffers())}
        problems = [f"no {name}" for name in targets if name not in tensors]
        problems += [
            f"{name} {list(tensors[name].shape)} instead of {list(value.shape)}"
            for name, value in targets.items()
            if name in tensors and tensors[name].shape != value.shape
        ]
        if problems:
            raise PromptFileError(explain("learned tensors that do not fit this model", got="; ".join(problems)))
        for name, value in targets.items():
            value.copy_(tensors[name])
