"""Who trains what, when: the controller and its executors. The only home of Ray."""
