// Authorino's own engine behind a gRPC port, with its AuthConfigs from a pipe.
//
// Says first where it listens, {"grpc": "127.0.0.1:port"}; then for each line {"authconfigs": […], "secrets": […]} what it
// thinks of them, {"problems": […]}, and from then on answers Check by them and by nothing before.
//
// Kubernetes is the fake client of controller-runtime, so nothing is asked of any cluster. Never decides anything itself:
// what is compared is the reconciler, the index and the service of the module as published.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"sync/atomic"

	envoy "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/go-logr/logr"
	api "github.com/kuadrant/authorino/api/v1beta3"
	"github.com/kuadrant/authorino/controllers"
	"github.com/kuadrant/authorino/pkg/evaluators"
	"github.com/kuadrant/authorino/pkg/index"
	"github.com/kuadrant/authorino/pkg/service"
	"google.golang.org/grpc"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

const lineBytesMax = 16 << 20

type policies struct {
	AuthConfigs []api.AuthConfig `json:"authconfigs"`
	Secrets     []core.Secret    `json:"secrets"`
}

// oracle answers by whatever was loaded last.
type oracle struct {
	current atomic.Pointer[service.AuthService]
}

func (o *oracle) Check(ctx context.Context, request *envoy.CheckRequest) (*envoy.CheckResponse, error) {
	return o.current.Load().Check(ctx, request)
}

func main() {
	evaluators.EvaluatorCacheSize = 1
	asked := &oracle{}
	asked.current.Store(service.NewAuthService(index.NewIndex(), 0, 8192))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail("cannot listen: %v", err)
	}
	server := grpc.NewServer()
	envoy.RegisterAuthorizationServer(server, asked)
	go func() { fail("cannot serve: %v", server.Serve(listener)) }()
	out := json.NewEncoder(os.Stdout)
	say(out, map[string]string{"grpc": listener.Addr().String()})

	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 0, 64<<10), lineBytesMax)
	for lines.Scan() {
		var given policies
		if err := json.Unmarshal(lines.Bytes(), &given); err != nil {
			say(out, map[string][]string{"problems": {err.Error()}})
			continue
		}
		loaded, problems, err := load(given)
		if err != nil {
			fail("%v", err)
		}
		asked.current.Store(loaded)
		say(out, map[string][]string{"problems": problems})
	}
	if err := lines.Err(); err != nil {
		fail("cannot read: %v", err)
	}
}

func say(out *json.Encoder, words any) {
	if err := out.Encode(words); err != nil {
		fail("cannot write: %v", err)
	}
}

func fail(format string, words ...any) {
	fmt.Fprintf(os.Stderr, "oracle: "+format+"\n", words...)
	os.Exit(1)
}

// load reconciles every AuthConfig, as the controller would after each change.
func load(given policies) (*service.AuthService, []string, error) {
	scheme := runtime.NewScheme()
	if err := api.AddToScheme(scheme); err != nil {
		return nil, nil, err
	}
	if err := core.AddToScheme(scheme); err != nil {
		return nil, nil, err
	}
	var objects []client.Object
	for i := range given.AuthConfigs {
		objects = append(objects, &given.AuthConfigs[i])
	}
	for i := range given.Secrets {
		objects = append(objects, &given.Secrets[i])
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
	problems := []string{}
	for _, config := range given.AuthConfigs {
		name := types.NamespacedName{Namespace: config.Namespace, Name: config.Name}
		if _, err := reconciler.Reconcile(context.Background(), ctrl.Request{NamespacedName: name}); err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", name, err))
		}
	}
	return service.NewAuthService(hosts, 0, 8192), problems, nil
}
