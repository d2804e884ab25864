"""Pure rules of the method: taxonomy, safety configs, schemas, error arithmetic. No I/O."""
