"""The operator's page: what the microscope just saw, what the network said of it, and what people say."""
