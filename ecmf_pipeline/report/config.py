"""Settings of the report; importing them loads nothing heavy."""

from __future__ import annotations

from pydantic import Field

from ecmf_pipeline.core.config import Config


class ReportConfig(Config):
    """How much the report shows; counts are always of everything.

    Attributes:
        quarantine_rows: Most rows of the quarantine table.
        change_rows: Most label changes shown of each kind.
        finding_rows: Most findings of the corpus index shown.
        contact_sheets: Clips whose faces are shown.
        text_length: Characters after which foreign text (transcripts, reasons, messages) is cut; clip ids stay whole.
    """

    quarantine_rows: int = Field(default=200, ge=0, le=2000)
    change_rows: int = Field(default=100, ge=0, le=500)
    finding_rows: int = Field(default=50, ge=0, le=1000)
    contact_sheets: int = Field(default=6, ge=0, le=60)
    text_length: int = Field(default=160, ge=20, le=500)
