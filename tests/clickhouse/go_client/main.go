// What Grafana's ClickHouse plugin is built on, clickhouse-go in its HTTP mode, against a port: one run is one way of
// compression. It prints what it saw as JSON; the test compares.
//
//	go run . HOST:PORT USER PASSWORD DATABASE none|gzip|deflate|lz4|zstd
//
// The database has the tables `types` and `copied` of the same columns and, if the user may write, `copied` gets every
// row of `types` by way of Go's values.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"reflect"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

var methods = map[string]clickhouse.CompressionMethod{
	"none": clickhouse.CompressionNone, "gzip": clickhouse.CompressionGZIP, "deflate": clickhouse.CompressionDeflate,
	"lz4": clickhouse.CompressionLZ4, "zstd": clickhouse.CompressionZSTD,
}

// The options that the plugin sets.
func options() *clickhouse.Options {
	compression := &clickhouse.Compression{Method: methods[os.Args[5]]}
	if os.Args[5] == "gzip" || os.Args[5] == "deflate" {
		compression.Level = 3
	}
	return &clickhouse.Options{
		Addr:        []string{os.Args[1]},
		Auth:        clickhouse.Auth{Database: os.Args[4], Username: os.Args[2], Password: os.Args[3]},
		ClientInfo:  clickhouse.ClientInfo{Products: []struct{ Name, Version string }{{"grafana", "13.2.3"}}},
		Compression: compression,
		DialTimeout: 10 * time.Second,
		ReadTimeout: 60 * time.Second,
		Protocol:    clickhouse.HTTP,
		Settings:    clickhouse.Settings{"max_threads": 2},
	}
}

// The text of an error, and the exception of ClickHouse in it.
func told(err error) map[string]any {
	if err == nil {
		return map[string]any{"text": ""}
	}
	found := map[string]any{"text": err.Error()}
	var exception *clickhouse.Exception
	if errors.As(err, &exception) {
		found["code"] = exception.Code
	}
	return found
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// Every row as Go has it.
func all(rows driver.Rows, row func([]any)) error {
	defer rows.Close()
	for rows.Next() {
		values := make([]any, len(rows.ColumnTypes()))
		for i, column := range rows.ColumnTypes() {
			values[i] = reflect.New(column.ScanType()).Interface()
		}
		if err := rows.Scan(values...); err != nil {
			return err
		}
		for i := range values {
			values[i] = reflect.ValueOf(values[i]).Elem().Interface()
		}
		row(values)
	}
	return rows.Err()
}

func main() {
	ctx := context.Background()
	seen := map[string]any{}
	connection, err := clickhouse.Open(options())
	check(err)
	if err := connection.Ping(ctx); err != nil {
		seen["ping"] = told(err)
		check(json.NewEncoder(os.Stdout).Encode(seen))
		return
	}
	version, err := connection.ServerVersion()
	check(err)
	seen["version"] = version.String()

	// Columns, and every value of every type through Go and back.
	rows, err := connection.Query(ctx, "SELECT * FROM types ORDER BY n")
	check(err)
	types := [][2]string{}
	for _, column := range rows.ColumnTypes() {
		types = append(types, [2]string{column.Name(), column.DatabaseTypeName()})
	}
	seen["types"] = types
	read := [][]any{}
	check(all(rows, func(values []any) { read = append(read, values) }))
	seen["read"] = len(read)
	seen["first"] = read[0]
	batch, err := connection.PrepareBatch(ctx, "INSERT INTO copied")
	check(err)
	for _, row := range read {
		check(batch.Append(row...))
	}
	seen["write"] = told(batch.Send())
	seen["drop"] = told(connection.Exec(ctx, "DROP TABLE IF EXISTS nothing"))

	// No rows, no columns: what a ClickHouse server answers in this format.
	rows, err = connection.Query(ctx, "SELECT * FROM types WHERE n > 1000000000")
	check(err)
	none := 0
	check(all(rows, func([]any) { none++ }))
	seen["none"] = none

	// Parameters, and settings of one query.
	var answer []any
	one := func(sql string, arguments ...any) []any {
		rows, err := connection.Query(ctx, sql, arguments...)
		check(err)
		check(all(rows, func(values []any) { answer = values }))
		return answer
	}
	seen["named"] = one("SELECT {text:String}, {number:UInt32}", clickhouse.Named("text", "it's 'é"), clickhouse.Named("number", "7"))
	seen["bound"] = one("SELECT ?, ?", "it's 'é", 7)
	set := clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"max_block_size": 123}), clickhouse.WithQueryID("mine"))
	var block uint64
	check(connection.QueryRow(set, "SELECT toUInt64(getSetting('max_block_size'))").Scan(&block))
	seen["setting"] = block

	// Errors before the first row and behind some.
	_, err = connection.Query(ctx, "SELECT nothing FROM types")
	seen["unknown"] = told(err)
	rows, err = connection.Query(ctx, "SELECT sipHash64(number), throwIf(number = 600000) FROM numbers(700000)")
	check(err)
	got := 0
	err = all(rows, func([]any) { got++ })
	seen["broken"] = told(err)
	seen["before_broken"] = got

	// The client goes away.
	short, cancel := context.WithTimeout(clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"max_execution_time": 100})), 300*time.Millisecond)
	began := time.Now()
	_, err = connection.Query(short, "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number))")
	cancel()
	seen["cancelled"] = told(err)
	seen["cancelled_ms"] = time.Since(began).Milliseconds()

	// database/sql, as the plugin uses it: what its pages ask, beside each other.
	db := clickhouse.OpenDB(options())
	check(db.PingContext(ctx))
	asked := []string{
		"SELECT version()", "SHOW DATABASES", fmt.Sprintf("SHOW TABLES FROM \"%s\"", os.Args[4]),
		fmt.Sprintf("DESC TABLE \"%s\".\"types\"", os.Args[4]), "SELECT name FROM system.databases ORDER BY name",
		fmt.Sprintf("SELECT name FROM system.tables WHERE database = '%s' ORDER BY name", os.Args[4]),
		"SELECT name, type, table FROM system.columns WHERE database = currentDatabase()",
		"SELECT name, is_aggregate, case_insensitive, alias_to FROM system.functions LIMIT 50",
		"/* grafana */ SELECT toStartOfInterval(toDateTime(at), INTERVAL 60 second) AS time, avg(score) FROM types GROUP BY time ORDER BY time",
		"EXPLAIN SELECT 1",
	}
	counts := make([]int, len(asked))
	failures := make([]string, len(asked))
	var together sync.WaitGroup
	for i, question := range asked {
		together.Add(1)
		go func() {
			defer together.Done()
			rows, err := db.QueryContext(ctx, question)
			if err != nil {
				failures[i] = err.Error()
				return
			}
			defer rows.Close()
			columns, _ := rows.Columns()
			for rows.Next() {
				values := make([]any, len(columns))
				for j := range values {
					values[j] = new(any)
				}
				if err := rows.Scan(values...); err != nil {
					failures[i] = err.Error()
					return
				}
				counts[i]++
			}
			if err := rows.Err(); err != nil {
				failures[i] = err.Error()
			}
		}()
	}
	together.Wait()
	seen["asked"] = counts
	seen["failures"] = failures
	var score sql.NullFloat64
	check(db.QueryRowContext(ctx, "SELECT score FROM types WHERE n = ?", 1).Scan(&score))
	seen["null"] = !score.Valid
	check(json.NewEncoder(os.Stdout).Encode(seen))
}
