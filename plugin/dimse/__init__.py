"""The DICOM network: our node (C-ECHO, C-STORE) and our client."""
