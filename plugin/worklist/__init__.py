"""The worklist: Unified Procedure Steps (PS3.4 CC), those that others perform and those that are jobs of ours."""
