// A pool of pgx that resets its sessions, as an application has it; the database by libpq's PG* variables.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	config, err := pgxpool.ParseConfig("pool_max_conns=1")
	if err != nil {
		return err
	}
	config.AfterRelease = func(conn *pgx.Conn) bool {
		_, err := conn.Exec(ctx, "DISCARD ALL")
		return err == nil && conn.DeallocateAll(ctx) == nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	count := 0
	err = pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		for _, statement := range []string{
			"CREATE TABLE numbers AS SELECT n FROM generate_series(1, 1000) n",
			"CREATE TEMP TABLE mine(n int)", "SET search_path = pg_catalog", "SET lock_timeout = '1s'",
		} {
			if _, err := conn.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, pool, func(transaction pgx.Tx) error {
		if _, err := transaction.Exec(ctx, "DECLARE batches CURSOR FOR SELECT n FROM numbers"); err != nil {
			return err
		}
		for {
			rows, err := transaction.Query(ctx, "FETCH 100 FROM batches")
			if err != nil {
				return err
			}
			batch, err := pgx.CollectRows(rows, pgx.RowTo[int])
			if err != nil {
				return err
			}
			count += len(batch)
			if len(batch) == 0 {
				return nil
			}
		}
	})
	if err != nil {
		return err
	}
	var schema, timeout string
	var encrypted, temporary bool
	err = pool.QueryRow(ctx, "SELECT current_schema(), current_setting('lock_timeout'),"+
		" (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), to_regclass('pg_temp.mine') IS NOT NULL",
	).Scan(&schema, &timeout, &encrypted, &temporary)
	if err != nil {
		return err
	}
	_, err = pool.Exec(ctx, "DROP TABLE numbers")
	var refusal *pgconn.PgError
	if !errors.As(err, &refusal) {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"rows": count, "schema": schema, "lock_timeout": timeout, "encrypted": encrypted, "temporary": temporary,
		"refused": refusal.Code,
	})
}
