"""How many processes a run has, where they are, and how the model is spread over them."""

from dataclasses import dataclass, field

from hf_reward.errors import ConfigurationError


@dataclass
class LaunchArguments:
    """
    How the command starts its processes; without `accelerate_config` it starts none.

    Parameters:
        accelerate_config (`str`, *optional*):
            Short name of a shipped configuration of accelerate, `"cpu"`, `"ddp"`, `"zero1"`, `"zero2"`, `"zero3"` or
            `"fsdp2"`, or a path to one.
        num_processes (`int`, *optional*):
            Number of processes on all machines together. `None` takes one per GPU of this machine.
        num_machines (`int`, *optional*):
            Number of machines. `None` takes the configuration's, which is 1 for the shipped ones.
        machine_rank (`int`, *optional*):
            Number of this machine, from 0.
        main_process_ip (`str`, *optional*):
            Address of machine 0.
        main_process_port (`int`, *optional*):
            Port of machine 0 that the others connect to.

    Raises:
        `ConfigurationError`: A number is too small, the processes cannot be shared out evenly among the machines, or
        one of several machines is not told its number or where machine 0 is.
    """

    accelerate_config: str | None = field(
        default=None,
        metadata={"help": "Start the processes of a mode: cpu, ddp, zero1, zero2, zero3, fsdp2, or a path."},
    )
    num_processes: int | None = field(
        default=None, metadata={"help": "Processes on all machines together. Not set: one per GPU of this machine."}
    )
    num_machines: int | None = field(
        default=None, metadata={"help": "Machines; the command is started on each. Not set: one."}
    )
    machine_rank: int | None = field(default=None, metadata={"help": "Number of this machine, from 0."})
    main_process_ip: str | None = field(default=None, metadata={"help": "Address of machine 0."})
    main_process_port: int | None = field(
        default=None, metadata={"help": "Port of machine 0 that the other machines connect to."}
    )

    def __post_init__(self) -> None:
        for name, smallest in (("num_processes", 1), ("num_machines", 1), ("machine_rank", 0)):
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ConfigurationError(f"`{name}`: found {value!r}; expected a whole number, {smallest} or more")
        machines = self.num_machines or 1
        if (self.machine_rank or 0) >= machines and self.num_machines is not None:
            raise ConfigurationError(
                f"`machine_rank`: found {self.machine_rank!r} of {machines} machines; expected 0 to {machines - 1}"
            )
        if self.num_processes is not None and self.num_processes % machines:
            raise ConfigurationError(
                f"`num_processes`: found {self.num_processes!r} for {machines} machines; expected a multiple of "
                f"{machines}, because it counts the processes of all machines together"
            )
        for name in ("machine_rank", "main_process_ip", "main_process_port"):
            if machines > 1 and getattr(self, name) is None:
                raise ConfigurationError(f"`{name}`: found nothing; expected it with {machines} machines")
