"""DICOM to volumes and slices, and results back to DICOM. No torch, no network, no database."""
