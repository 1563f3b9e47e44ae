"""Us as the client (SCU) on the DICOM network: one file per service, each over `association`."""
