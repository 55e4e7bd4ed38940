"""Settings of the report; importing them loads no heavy library."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ecmf_pipeline.core.config import Config

Pictures = Literal["show", "blur", "off"]


class ReportConfig(Config):
    """Limits on the content of the report; counts always cover all clips.

    Attributes:
        quarantine_rows: Maximum number of rows of the quarantine table.
        finding_rows: Maximum number of findings of the corpus index.
        contact_sheets: Number of clips with a contact sheet of their faces; none unless ``thumbnails`` is ``show``.
        thumbnails: Pictures of clips: ``show``, ``blur`` (nobody can be recognised) or ``off``.
        text_length: Maximum number of characters of external text (transcripts, reasons, messages). Clip ids are not
            cut.
    """

    quarantine_rows: int = Field(default=200, ge=0, le=2000)
    finding_rows: int = Field(default=50, ge=0, le=1000)
    contact_sheets: int = Field(default=6, ge=0, le=60)
    thumbnails: Pictures = "show"
    text_length: int = Field(default=160, ge=20, le=500)
