"""What other libraries print while diffc reads a model: nothing."""

import logging
import subprocess
import sys

import diffusers.utils.logging as bars
import pytest
from support import pipelines

from diffc.errors import InputError
from diffc.models.foreign import foreign_errors, quiet_libraries


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    return pipelines.save_sd(tmp_path_factory.mktemp("quiet") / "sd")


@pytest.mark.slow
def test_a_text_pipeline_is_read_without_a_word(stable_diffusion):
    code = (
        "import sys; from diffc.data.guidance import call_defaults\n"
        "from diffc.models.load import load_pipeline; from diffc.models.source import find_source\n"
        "source = find_source(sys.argv[1])\n"
        "assert call_defaults(source)['guidance_scale'] == 7.5\n"
        "load_pipeline(source)\n"
    )
    command = [sys.executable, "-c", code, str(stable_diffusion)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_levels_and_bars_of_the_caller_come_back(caplog):
    log = logging.getLogger("diffusers.somewhere")
    enabled = bars.is_progress_bar_enabled()
    with pytest.raises(InputError), quiet_libraries(), foreign_errors("this cannot be read"):
        log.warning("lost")
        assert not bars.is_progress_bar_enabled()
        raise ValueError("why")
    logging.getLogger("somewhere").warning("kept")
    assert [record.message for record in caplog.records] == ["kept"]
    assert bars.is_progress_bar_enabled() == enabled
