"""Classes of service that containers are put into by name: block I/O weights and limits, and Intel RDT."""
