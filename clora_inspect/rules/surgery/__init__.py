"""CL4, surgery: modules that should not be adapted, adapters that cannot learn, and parts of the
base that change although they are frozen.
"""
