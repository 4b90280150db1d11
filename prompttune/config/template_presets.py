"""Lists of hand-written templates that the field averages, by name: `templates.ensemble = "@clip-kinetics"`.

Sources: openai/CLIP@04f4dc2 data/prompts.md, Kinetics700 (28) and UCF101 (48), "a example" as printed there;
muzairkhattak/PromptSRC@8be7dcf trainers/imagenet_templates.py, IMAGENET_TEMPLATES (60), itself a part of CLIP's 80
for ImageNet. Both projects are under the MIT licence.
"""

from __future__ import annotations

_SHOWN = ("a photo of", "a video of", "a example of", "a demonstration of")
_VERBS = ("", " using", " doing", " during", " performing", " practicing")

_WHO = ("", *(f" a person{verb}" for verb in _VERBS))
# Sorted by what is shown, then by verb; the bare class name first.
_CLIP_KINETICS = tuple(f"{shown}{who} {{}}." for shown in _SHOWN for who in _WHO)
# Sorted by verb, then by article, then by what is shown.
_CLIP_UCF101 = tuple(
    f"{shown} {article} person{verb} {{}}." for verb in _VERBS for article in ("a", "the") for shown in _SHOWN
)
_PROMPTSRC = """
a photo of a {}.
a bad photo of a {}.
a photo of many {}.
a sculpture of a {}.
a photo of the hard to see {}.
a low resolution photo of the {}.
a rendering of a {}.
graffiti of a {}.
a bad photo of the {}.
a cropped photo of the {}.
a tattoo of a {}.
the embroidered {}.
a photo of a hard to see {}.
a bright photo of a {}.
a photo of a clean {}.
a photo of a dirty {}.
a dark photo of the {}.
a drawing of a {}.
a photo of my {}.
the plastic {}.
a photo of the cool {}.
a close-up photo of a {}.
a black and white photo of the {}.
a painting of the {}.
a painting of a {}.
a pixelated photo of the {}.
a sculpture of the {}.
a bright photo of the {}.
a cropped photo of a {}.
a plastic {}.
a photo of the dirty {}.
a jpeg corrupted photo of a {}.
a blurry photo of the {}.
a photo of the {}.
a good photo of the {}.
a rendering of the {}.
a {} in a video game.
a photo of one {}.
a doodle of a {}.
a close-up photo of the {}.
the origami {}.
the {} in a video game.
a sketch of a {}.
a doodle of the {}.
a origami {}.
a low resolution photo of a {}.
the toy {}.
a rendition of the {}.
a photo of the clean {}.
a photo of a large {}.
a rendition of a {}.
a photo of a nice {}.
a photo of a weird {}.
a blurry photo of a {}.
a cartoon {}.
art of a {}.
a sketch of the {}.
a embroidered {}.
a pixelated photo of a {}.
itap of the {}.
""".strip().splitlines()

TEMPLATE_PRESETS: dict[str, tuple[str, ...]] = {
    "clip-kinetics": _CLIP_KINETICS,
    "clip-ucf101": _CLIP_UCF101,
    "promptsrc": tuple(_PROMPTSRC),
}
