"""What PS3.15 Annex E asks for, part by part; `dicom_io.deidentify` puts the parts together."""
