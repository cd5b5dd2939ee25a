// Authorino's own engine behind a pipe: one line of JSON in, one line out.
//
// In: {"authconfigs": [AuthConfig …], "secrets": [Secret …], "checks": [base64 of a CheckRequest …]}.
// Out: {"problems": [words about AuthConfigs that were not taken …], "answers": [base64 of a CheckResponse …]}.
//
// Kubernetes is the fake client of controller-runtime, so nothing is asked of any cluster. Each line starts anew. Never
// decides anything itself: what is compared is the reconciler, the index and the service of the module as published.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"

	envoy "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/go-logr/logr"
	api "github.com/kuadrant/authorino/api/v1beta3"
	"github.com/kuadrant/authorino/controllers"
	"github.com/kuadrant/authorino/pkg/evaluators"
	"github.com/kuadrant/authorino/pkg/index"
	"github.com/kuadrant/authorino/pkg/service"
	"google.golang.org/protobuf/proto"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

// A line may hold many requests, and a request a certificate.
const lineBytesMax = 16 << 20

type question struct {
	AuthConfigs []api.AuthConfig `json:"authconfigs"`
	Secrets     []core.Secret    `json:"secrets"`
	Checks      []string         `json:"checks"`
}

type answer struct {
	Problems []string `json:"problems"`
	Answers  []string `json:"answers"`
}

func main() {
	evaluators.EvaluatorCacheSize = 1
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 0, 64<<10), lineBytesMax)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var asked question
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			fail("a line is no question: %v", err)
		}
		answered, err := decide(asked)
		if err != nil {
			fail("%v", err)
		}
		if err := out.Encode(answered); err != nil {
			fail("cannot write: %v", err)
		}
	}
	if err := lines.Err(); err != nil {
		fail("cannot read: %v", err)
	}
}

func fail(format string, words ...any) {
	fmt.Fprintf(os.Stderr, "oracle: "+format+"\n", words...)
	os.Exit(1)
}

func decide(asked question) (*answer, error) {
	ctx := context.Background()
	scheme := runtime.NewScheme()
	if err := api.AddToScheme(scheme); err != nil {
		return nil, err
	}
	if err := core.AddToScheme(scheme); err != nil {
		return nil, err
	}
	var objects []client.Object
	for i := range asked.AuthConfigs {
		objects = append(objects, &asked.AuthConfigs[i])
	}
	for i := range asked.Secrets {
		objects = append(objects, &asked.Secrets[i])
	}
	hosts := index.NewIndex()
	reconciler := &controllers.AuthConfigReconciler{
		Client:        fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build(),
		Logger:        logr.Discard(),
		Scheme:        scheme,
		Index:         hosts,
		StatusReport:  controllers.NewStatusReportMap(),
		LabelSelector: labels.Everything(),
	}
	answered := &answer{Problems: []string{}, Answers: []string{}}
	for _, config := range asked.AuthConfigs {
		name := types.NamespacedName{Namespace: config.Namespace, Name: config.Name}
		if _, err := reconciler.Reconcile(ctx, ctrl.Request{NamespacedName: name}); err != nil {
			answered.Problems = append(answered.Problems, fmt.Sprintf("%s: %v", name, err))
		}
	}
	server := service.NewAuthService(hosts, 0, 8192)
	for _, text := range asked.Checks {
		bytes, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, err
		}
		request := &envoy.CheckRequest{}
		if err := proto.Unmarshal(bytes, request); err != nil {
			return nil, err
		}
		response, err := server.Check(ctx, request)
		if err != nil {
			return nil, err
		}
		bytes, err = proto.Marshal(response)
		if err != nil {
			return nil, err
		}
		answered.Answers = append(answered.Answers, base64.StdEncoding.EncodeToString(bytes))
	}
	return answered, nil
}
