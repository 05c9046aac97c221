"""The commands ``python -m spacy early-exit ...``. It is loaded on every call of spaCy's command
line.
"""

from .adopt import adopt_cli
from .app import early_exit
from .benchmark import benchmark_cli
from .calibrate import calibrate_cli
from .card import card_cli
from .convert import convert_cli
from .evaluate import evaluate_cli
from .init_config import init_config_cli
from .report import report_cli
from .slim import slim_cli
from .tag import tag_cli

__all__ = [
    "adopt_cli",
    "benchmark_cli",
    "calibrate_cli",
    "card_cli",
    "convert_cli",
    "early_exit",
    "evaluate_cli",
    "init_config_cli",
    "report_cli",
    "slim_cli",
    "tag_cli",
]
