"""How many processes a run has, where they are, and how the model is spread over them."""

from dataclasses import dataclass, field


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
