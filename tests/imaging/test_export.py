import numpy as np
import pytest

from primia.config.site import DataSource
from primia.imaging.export import WRITERS, contact_sheet
from primia.imaging.readers import read_pool
from primia.imaging.synth import CLASSES, synthesise_sites


@pytest.fixture(scope="module")
def films():
    drawn = synthesise_sites(12, sites=2, size=32, seed=3)
    return dict(zip(("one", "two"), drawn, strict=True))


@pytest.mark.parametrize("form", sorted(WRITERS))
def test_every_form_reads_back_what_was_written(tmp_path, films, form):
    for path, (site, written) in zip(
        WRITERS[form](films, tmp_path, CLASSES), films.items(), strict=True
    ):
        pool = read_pool(DataSource(kind=form, path=path), classes=CLASSES, input_size=32)
        read = {p.tobytes(): (int(k), who) for p, k, who in
                zip(pool.pixels, pool.labels, pool.patient_ids, strict=True)}  # fmt: skip
        assert len(read) == len(pool.labels) == len(written)
        for film, label, patient in zip(
            written.pixels, written.labels, written.patients, strict=True
        ):
            assert read[film.tobytes()] == (label, f"{site}-{patient:05d}")
        assert pool.warnings == ()


def test_the_contact_sheet_has_a_row_for_each_class_of_each_site(films):
    sheet = np.asarray(contact_sheet(films, CLASSES, columns=2))
    assert sheet.shape == (2 * 3 * 96, 96 + 2 * 96)
    assert all(sheet[row * 96 : (row + 1) * 96, 96:192].std() > 10 for row in range(6))
