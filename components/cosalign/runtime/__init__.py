"""What every container entry needs: KFP's executor contract, exit codes, logs, progress, steps."""
