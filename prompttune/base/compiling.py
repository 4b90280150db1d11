"""torch.compile behind one door: what it needs set, and one message where it makes no kernels.

PyTorch's compiler is imported when something is compiled, which takes as long as a short training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from prompttune.errors import ConfigError, explain

# A function is run in more ways than PyTorch's limit of eight, behind which it silently stops compiling.
KERNEL_LIMIT = 64
Result = TypeVar("Result")


def compile_function(function: Callable[..., Result], *, setting: str, **options: Any) -> Callable[..., Result]:
    """`function` through torch.compile, which makes kernels at the first call of each kind.

    Args:
        setting: the configuration's key that asked for it.
        options: torch.compile's own.

    Raises:
        ConfigError: when it is called and no kernels can be made here, for want of a compiler say.
    """
    import torch._dynamo
    import torch._functorch.config

    limit = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"  # PyTorch 2.6
    # Gradients of single loss terms are taken over a graph that is kept, which donated buffers would not survive. For
    # the whole process, as backward kernels are made when they are first needed.
    torch._functorch.config.donated_buffer = False
    made = torch.compile(function, **options)

    def run(*arguments: Any) -> Result:
        try:
            with torch._dynamo.config.patch({limit: KERNEL_LIMIT}):
                return made(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).strip().splitlines()[:2])  # whose words it passes on, and the words
            fix = f"{setting} = false, or what is missing (on the CPU: a C++ compiler; on CUDA: Triton)"
            raise ConfigError(explain("torch.compile cannot make kernels here", got=reason, fix=fix)) from None

    return run
