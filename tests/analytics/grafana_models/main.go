// Checks requests and answers of Grafana's HTTP API against its published models.
//
// Reads one JSON object a line, {"model": …, "body": …}, from standard input and writes a line for each body that the
// model does not allow: a field that it does not have, a value of the wrong type, a required one that is missing.
// Answers may have fields that the models lack, as Grafana's own answers do.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"github.com/go-openapi/strfmt"
	"github.com/grafana/grafana-openapi-client-go/models"
)

type model interface {
	Validate(formats strfmt.Registry) error
}

var kinds = map[string]func() model{
	"AddDataSourceCommand":    func() model { return &models.AddDataSourceCommand{} },
	"AlertRuleGroup":          func() model { return &models.AlertRuleGroup{} },
	"CreateFolderCommand":     func() model { return &models.CreateFolderCommand{} },
	"DashboardFullWithMeta":   func() model { return &models.DashboardFullWithMeta{} },
	"DataSource":              func() model { return &models.DataSource{} },
	"Folder":                  func() model { return &models.Folder{} },
	"HealthResponse":          func() model { return &models.HealthResponse{} },
	"OrgDetailsDTO":           func() model { return &models.OrgDetailsDTO{} },
	"ProvisionedAlertRule":    func() model { return &models.ProvisionedAlertRule{} },
	"SaveDashboardCommand":    func() model { return &models.SaveDashboardCommand{} },
	"UpdateDataSourceCommand": func() model { return &models.UpdateDataSourceCommand{} },
}

func check(name string, body []byte, strict bool) error {
	make, known := kinds[name]
	if !known {
		return fmt.Errorf("no such model")
	}
	value := make()
	decoder := json.NewDecoder(bytes.NewReader(body))
	if strict {
		decoder.DisallowUnknownFields()
	}
	if err := decoder.Decode(value); err != nil {
		return err
	}
	return value.Validate(strfmt.Default)
}

func main() {
	decoder := json.NewDecoder(os.Stdin)
	for decoder.More() {
		var line struct {
			Model  string
			Answer bool
			Body   json.RawMessage
		}
		if err := decoder.Decode(&line); err != nil {
			panic(err)
		}
		if err := check(line.Model, line.Body, !line.Answer); err != nil {
			fmt.Printf("%s: %v\n", line.Model, err)
		}
	}
}
