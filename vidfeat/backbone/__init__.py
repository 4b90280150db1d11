"""The frozen CLIP towers and the pack they live in; torch only, no open_clip at run time."""

from .blocks import QUICK_GELU_SLOPE, ResidualBlock, quick_gelu
from .config import BackboneConfig
from .foreign_text import ForeignTextTower
from .hub_tokenizer import HubTokenizer
from .pack import AnyTokenizer, BackbonePack
from .text import FrozenText, PromptableText, TextTower
from .tokenizer import Tokenizer, clean_text
from .tower_config import ForeignText, ForeignVision, TextConfig, TokenizerSettings, VisionConfig
from .vision import VisionTaps, VisionTower
from .weights import weights_sha256

__all__ = [
    "QUICK_GELU_SLOPE",
    "AnyTokenizer",
    "BackboneConfig",
    "BackbonePack",
    "ForeignText",
    "ForeignTextTower",
    "ForeignVision",
    "FrozenText",
    "HubTokenizer",
    "PromptableText",
    "ResidualBlock",
    "TextConfig",
    "TextTower",
    "Tokenizer",
    "TokenizerSettings",
    "VisionConfig",
    "VisionTaps",
    "VisionTower",
    "clean_text",
    "quick_gelu",
    "weights_sha256",
]
