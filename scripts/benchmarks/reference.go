// The fixed answer of the benchmarks by Go's net/http: what a compiled server with goroutines makes of the same core.
package main

import (
	"log"
	"net/http"
	"os"
)

func main() {
	answer := []byte("Hello, World!")
	http.HandleFunc("/", func(writer http.ResponseWriter, _ *http.Request) {
		writer.Header().Set("Content-Type", "text/plain")
		writer.Write(answer)
	})
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
