"""Descriptions of published corpora, in the order in which they are recognised."""

from __future__ import annotations

from ecmf_pipeline.corpora.described import Description
from ecmf_pipeline.corpora.kinds import chsims, cremad, emodb, iemocap, mosei, ravdess, savee, table, tess

DESCRIPTIONS: tuple[Description, ...] = (
    ravdess.RAVDESS,
    cremad.CREMAD,
    emodb.EMODB,
    tess.TESS,
    savee.SAVEE,
    iemocap.IEMOCAP,
    chsims.CHSIMS,
    mosei.MOSI,
    mosei.MOSEI,
    table.TABLE,
)
