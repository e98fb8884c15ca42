"""`--accelerate_config`: the command starts itself again, once per process, through `accelerate launch`."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import hf_reward
from hf_reward.errors import ConfigurationError


if TYPE_CHECKING:
    from hf_reward.config import LaunchArguments

# In the environment of the processes that were started here.
_STARTED = "HF_REWARD_ACCELERATE_CONFIG"


def is_launched() -> bool:
    """Whether a launcher (this one, `accelerate launch` or `torchrun`) started this process."""
    return "LOCAL_RANK" in os.environ or _STARTED in os.environ


def check_launcher(arguments: "LaunchArguments") -> None:
    """
    See, in a process that was launched, that nothing else was asked for.

    Raises:
        `ConfigurationError`: There is an `accelerate_config`, but another launcher started the processes.
    """
    asked = arguments.accelerate_config
    if asked is not None and os.environ.get(_STARTED) != asked:
        raise ConfigurationError(
            f"`accelerate_config`: found {asked!r}, but `accelerate launch` or `torchrun` has started the processes, "
            "in a mode of its own. Start the run by `hf_reward-train`, or leave `accelerate_config` out."
        )


def launch(argv: list[str], arguments: "LaunchArguments") -> int:
    """
    Start the processes and wait for them.

    Args:
        argv (`list[str]`): The arguments of the command; every process gets the same.
        arguments (`LaunchArguments`): What they say about processes, `accelerate_config` given.

    Returns:
        `int`: The exit code of the process that failed first, 1 for one that was killed, 143 after SIGTERM.

    Raises:
        `ConfigurationError`: There is no such configuration, or accelerate refuses it.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from accelerate.utils import patch_environment
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    name = str(arguments.accelerate_config)
    environment = {_STARTED: name} | ({"ACCELERATE_USE_CPU": "true"} if name == "cpu" else {})
    try:
        words = [*_options(arguments), "-m", "hf_reward.cli.train", *argv]
        with patch_environment(**environment):
            launch_command(launch_command_parser().parse_args(words))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        print(f"error: process {rank} ended with code {failure.exitcode}", file=sys.stderr)
        return _exit_code(failure.exitcode)
    except subprocess.CalledProcessError as error:
        return _exit_code(error.returncode)
    except SignalException as error:
        return 128 + error.sigval
    except ConfigurationError:
        raise
    except (ValueError, ImportError, ConnectionError, yaml.YAMLError) as error:
        raise ConfigurationError(f"`accelerate_config` {name!r}: accelerate cannot start it: {error}") from error
    return 0


def find_config(name: str) -> Path:
    """
    The file of a short name, or of a path.

    Raises:
        `ConfigurationError`: It is neither.
    """
    package = Path(hf_reward.__file__).parent
    # Installed inside the package; in the source tree the recipes lie beside it.
    places = (package / "recipes", package.parent / "recipes")
    shipped = {path.stem: path for place in places for path in (place / "accelerate_configs").glob("*.yaml")}
    if name in shipped:
        return shipped[name]
    if Path(name).is_file():
        return Path(name)
    raise ConfigurationError(
        f"`accelerate_config`: found {name!r}; expected one of {', '.join(sorted(shipped))}, or a file"
    )


def _options(arguments: "LaunchArguments") -> list[str]:
    """The options of `accelerate launch`; the shipped configurations leave the number of processes open."""
    config = find_config(str(arguments.accelerate_config))
    values = {
        "config_file": config,
        "num_processes": arguments.num_processes,
        "num_machines": arguments.num_machines,
        "machine_rank": arguments.machine_rank,
        "main_process_ip": arguments.main_process_ip,
        "main_process_port": arguments.main_process_port,
    }
    if arguments.num_processes is None and "num_processes" not in _read(config):
        import torch

        found = torch.cuda.device_count() * (arguments.num_machines or 1)
        if not found or arguments.accelerate_config == "cpu":
            raise ConfigurationError(
                "`num_processes`: found nothing, and there are no GPUs to count; expected a whole number, such as "
                "`--num_processes 2`"
            )
        values["num_processes"] = found
    return [text for key, value in values.items() if value is not None for text in (f"--{key}", str(value))]


def _read(config: Path) -> dict[str, Any]:
    written = yaml.safe_load(config.read_text(encoding="utf-8"))
    if not isinstance(written, dict):
        raise ConfigurationError(f"`accelerate_config`: {str(config)!r} is no configuration of accelerate")
    return written


def _exit_code(code: int) -> int:
    if code == -signal.SIGTERM:
        return 128 + signal.SIGTERM
    return code if code > 0 else 1
