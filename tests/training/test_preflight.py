import subprocess
import sys

import pytest

from catae.settings import Settings
from catae.training import preflight, trainer


def test_disk_needed_covers_three_checkpoints_and_two_models() -> None:
    state = trainer.Trainer(Settings(width=8)).model
    assert preflight.disk_needed(Settings(width=8)) == 14 * sum(weight.numel() * 4 for weight in state.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_needed_is_within_half_of_a_real_step(precision: str) -> None:
    code = (
        "import re, torch; from pathlib import Path; from catae import settings\n"
        "from catae.training import preflight, trainer\n"
        f"resolved = settings.Settings(batch_size=512, threads=1, precision={precision!r})\n"
        "state = trainer.Trainer(resolved)\n"
        "batch = torch.randn(512, 3, 64, 64).to(memory_format=torch.channels_last)\n"
        "Path('/proc/self/clear_refs').write_text('5')  # reset the peak to the current value\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) * 1024\n"
        "before = peak()\n"
        "trainer.step(state.model, batch, state.optimizer, state.dtype)\n"
        "print((peak() - before) / preflight.memory_needed(resolved, 512))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert 0.67 < float(ran.stdout) < 1.5
