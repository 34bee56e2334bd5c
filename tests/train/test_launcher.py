import pytest

from simsiam.pipeline.errors import UsageError
from simsiam.train.cli import run
from simsiam.train.launcher import Launch, is_first_process, read_launch, speaks_for_its_machine

ADDRESS = {"MASTER_ADDR": "first", "MASTER_PORT": "29500"}
TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "none"}
KUBEFLOW = {"RANK": "2", "WORLD_SIZE": "3"}
SLURM = {
    "SLURM_STEP_NUM_TASKS": "11",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2),3",
    "SLURM_STEP_NODELIST": "gpu[03-04],big1",
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "1",
}


@pytest.mark.parametrize(
    ("environment", "launch"),
    [
        ({}, Launch()),
        (ADDRESS, Launch()),  # many shells have it for something else
        ({"RANK": "0", "WORLD_SIZE": "1"}, Launch()),
        (TORCHRUN | ADDRESS, Launch(5, 8, 1, 4, torchrun_id="none")),
        (KUBEFLOW | ADDRESS, Launch(2, 3)),
        (SLURM, Launch(9, 11, 1, 3, "tcp://gpu03:22341")),
        (SLURM | ADDRESS, Launch(9, 11, 1, 3, "tcp://first:29500")),
        (SLURM | TORCHRUN | ADDRESS, Launch(5, 8, 1, 4, torchrun_id="none")),  # srun starts torchrun on each machine
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Launch()),  # a batch script, outside any step
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, Launch()),
    ],
)
def test_each_launcher_is_understood(environment: dict[str, str], launch: Launch) -> None:
    assert read_launch(environment) == launch


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("a1", "a1"), ("a-b.c,d", "a-b.c"), ("n[7]", "n7"), ("n[08-11,3],m", "n08"), ("r[1-2]-ib,x", "r1-ib")],
)
def test_first_host_of_a_step_is_where_its_processes_meet(nodes: str, first: str) -> None:
    assert read_launch(SLURM | {"SLURM_STEP_NODELIST": nodes}).meeting_point == f"tcp://{first}:22341"


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"RANK": "1"}, ["RANK=1", "no WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"]),
        ({"WORLD_SIZE": "2"}, ["WORLD_SIZE=2", "no RANK"]),
        ({"LOCAL_RANK": "1"}, ["LOCAL_RANK=1", "no RANK", "LOCAL_WORLD_SIZE"]),
        (KUBEFLOW, ["no MASTER_ADDR and no MASTER_PORT"]),
        (KUBEFLOW | ADDRESS | {"LOCAL_RANK": "0"}, ["no LOCAL_WORLD_SIZE"]),
        (TORCHRUN, ["no MASTER_ADDR"]),
        (KUBEFLOW | ADDRESS | {"RANK": "3"}, ["RANK=3 and WORLD_SIZE=3"]),
        (TORCHRUN | ADDRESS | {"LOCAL_RANK": "4"}, ["LOCAL_RANK=4"]),
        (KUBEFLOW | ADDRESS | {"RANK": "two"}, ["RANK='two'"]),
        (KUBEFLOW | ADDRESS | {"RANK": "-1"}, ["RANK='-1'"]),
        (KUBEFLOW | ADDRESS | {"WORLD_SIZE": "0"}, ["WORLD_SIZE='0'"]),
        ({"SLURM_STEP_NUM_TASKS": "2"}, ["SLURM_STEP_NUM_TASKS=2", "no SLURM_PROCID"]),
    ],
)
def test_half_of_a_launch_is_refused(environment: dict[str, str], named: list[str]) -> None:
    with pytest.raises(UsageError) as refusal:
        read_launch(environment)
    assert all(each in str(refusal.value) for each in named), str(refusal.value)
    assert "unset" in str(refusal.value)


@pytest.mark.parametrize("left_over", ["RANK", "LOCAL_RANK"])
def test_variable_left_over_in_a_shell_is_one_sentence(
    left_over: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(left_over, "1")
    assert speaks_for_its_machine()
    assert run(["pretrain", "demo", "--data.path", "nowhere"]) == 2
    (sentence,) = capfd.readouterr().err.splitlines()
    assert f"{left_over}=1" in sentence


def test_first_process_writes_and_the_first_of_a_machine_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (TORCHRUN | ADDRESS).items():
        monkeypatch.setenv(name, value)
    assert (is_first_process(), speaks_for_its_machine()) == (False, False)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert (is_first_process(), speaks_for_its_machine()) == (False, True)
    monkeypatch.setenv("RANK", "0")
    assert (is_first_process(), speaks_for_its_machine()) == (True, True)
