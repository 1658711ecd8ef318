"""CL4, surgery: modules that should not be adapted, adapters that cannot learn, and what else trains."""
