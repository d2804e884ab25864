"""Models and the engines that run them, all behind one interface (:mod:`.engine`)."""
