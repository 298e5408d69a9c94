// A tusd for tests: the packages of tusd itself with files, locks and HTTP hooks, without the cloud stores that make its own
// program large.
package main

import (
	"flag"
	"log"
	"net/http"
	"time"

	"github.com/tus/tusd/v2/pkg/filelocker"
	"github.com/tus/tusd/v2/pkg/filestore"
	"github.com/tus/tusd/v2/pkg/handler"
	"github.com/tus/tusd/v2/pkg/hooks"
	hookshttp "github.com/tus/tusd/v2/pkg/hooks/http"
)

const base = "/files/"

func main() {
	listen := flag.String("listen", "", "HOST:PORT")
	folder := flag.String("upload-dir", "", "where uploads go")
	hook := flag.String("hooks-http", "", "the URL of hooks")
	flag.Parse()
	served, err := made(*folder, *hook)
	if err != nil {
		log.Fatal(err)
	}
	http.Handle(base, http.StripPrefix(base, served))
	log.Fatal(http.ListenAndServe(*listen, nil))
}

func made(folder, hook string) (http.Handler, error) {
	composer := handler.NewStoreComposer()
	filestore.New(folder).UseIn(composer)
	filelocker.New(folder).UseIn(composer)
	config := handler.Config{BasePath: base, StoreComposer: composer, RespectForwardedHeaders: true}
	if hook == "" {
		return handler.NewHandler(config)
	}
	sender := &hookshttp.HttpHook{Endpoint: hook, MaxRetries: 1, Backoff: time.Second, Timeout: 10 * time.Second, SizeLimit: 5 << 10}
	return hooks.NewHandlerWithHooks(&config, sender, hooks.AvailableHooks)
}
