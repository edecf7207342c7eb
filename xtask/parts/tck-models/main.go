// tck-models serves the models of the published Go support library, all but those of entity types that the
// proxy does not have yet. The entities are the library's own, unchanged; only the choice among them is ours.
package main

import (
	"log"
	"time"

	"github.com/cloudstateio/go-support/cloudstate"
	"github.com/cloudstateio/go-support/cloudstate/action"
	"github.com/cloudstateio/go-support/cloudstate/eventsourced"
	"github.com/cloudstateio/go-support/cloudstate/protocol"
	"github.com/cloudstateio/go-support/cloudstate/value"
	"github.com/cloudstateio/go-support/example/shoppingcart"
	actions "github.com/cloudstateio/go-support/tck/action"
	events "github.com/cloudstateio/go-support/tck/eventsourced"
	values "github.com/cloudstateio/go-support/tck/value"
)

// The timeout of the entities that have one of their own.
const passivation = 100 * time.Millisecond

func main() {
	server, err := cloudstate.New(protocol.Config{ServiceName: "tck-models", ServiceVersion: "0.3.0"})
	check(err)
	eventSourced(server)
	valueEntities(server)
	withoutState(server)
	check(server.Run())
}

func eventSourced(server *cloudstate.CloudState) {
	models := protocol.DescriptorConfig{Service: "eventsourced.proto"}
	check(server.RegisterEventSourced(&eventsourced.Entity{
		ServiceName:   "cloudstate.tck.model.EventSourcedTckModel",
		PersistenceID: "event-sourced-tck-model",
		SnapshotEvery: 5,
		EntityFunc:    events.NewTestModel,
	}, models))
	check(server.RegisterEventSourced(&eventsourced.Entity{
		ServiceName:   "cloudstate.tck.model.EventSourcedTwo",
		PersistenceID: "event-sourced-tck-model-two",
		EntityFunc:    events.NewTestModelTwo,
	}, models))
	check(server.RegisterEventSourced(&eventsourced.Entity{
		ServiceName:   "cloudstate.tck.model.EventSourcedConfigured",
		PersistenceID: "event-sourced-configured",
		EntityFunc:    events.NewEventSourcedConfiguredEntity,
	}, models, eventsourced.WithPassivationStrategyTimeout(passivation)))
	check(server.RegisterEventSourced(&eventsourced.Entity{
		ServiceName:   "com.example.shoppingcart.ShoppingCart",
		PersistenceID: "ShoppingCart",
		EntityFunc:    shoppingcart.NewShoppingCart,
	}, protocol.DescriptorConfig{Service: "shoppingcart.proto"}.AddDomainDescriptor("domain.proto")))
}

func valueEntities(server *cloudstate.CloudState) {
	models := protocol.DescriptorConfig{Service: "tck_valueentity.proto"}
	check(server.RegisterValueEntity(&value.Entity{
		ServiceName:   "cloudstate.tck.model.valueentity.ValueEntityTckModel",
		PersistenceID: "value-entity-tck-model",
		EntityFunc:    values.NewValueEntityTckModelEntity,
	}, models))
	check(server.RegisterValueEntity(&value.Entity{
		ServiceName:   "cloudstate.tck.model.valueentity.ValueEntityTwo",
		PersistenceID: "value-entity-tck-model-two",
		EntityFunc:    values.NewValueEntityTckModelEntityTwo,
	}, models))
	check(server.RegisterValueEntity(&value.Entity{
		ServiceName:   "cloudstate.tck.model.valueentity.ValueEntityConfigured",
		PersistenceID: "value-entity-configured",
		EntityFunc:    values.NewValueEntityConfiguredEntity,
	}, models, value.WithPassivationStrategyTimeout(passivation)))
}

func withoutState(server *cloudstate.CloudState) {
	models := protocol.DescriptorConfig{Service: "tck_action.proto"}
	check(server.RegisterAction(&action.Entity{
		ServiceName: "cloudstate.tck.model.action.ActionTckModel",
		EntityFunc:  actions.NewTestModel,
	}, models))
	check(server.RegisterAction(&action.Entity{
		ServiceName: "cloudstate.tck.model.action.ActionTwo",
		EntityFunc:  actions.NewTestModelTwo,
	}, models))
}

func check(err error) {
	if err != nil {
		log.Fatalf("tck-models: %v", err)
	}
}
