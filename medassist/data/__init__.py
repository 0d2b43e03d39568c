"""Any medical dataset as examples: load, map columns, clean, split by question, report every row.

    from medassist.config import RunConfig
    from medassist.data import prepare_data
    prepared = prepare_data(RunConfig())   # the embedded flashcards

Files are the steps in their order: load (hub, textfiles, tablefiles, medquad, upload) → mapping → rows (choice) →
stages (clean, boilerplate, personal; kept on disk by store) → duplicates → split → overlap; prepare runs them, export
writes the result. Knows nothing of models, prompts or training.
"""

from medassist.data.export import export_data
from medassist.data.prepare import prepare_data, preview_rows
from medassist.data.shapes import DataReport, Example, PreparedData, SourceReport
from medassist.data.upload import load_upload

__all__ = ["DataReport", "Example", "PreparedData", "SourceReport", "export_data", "load_upload",
           "prepare_data", "preview_rows"]
