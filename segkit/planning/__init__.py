"""The planner: values of the config that are ``auto``, chosen from the data and the machine."""
