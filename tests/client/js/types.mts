import { type FollowEvent, GapError, type Update, connect } from "../../../streamer/client/js/client.js";

const client = connect(["ws://a", new URL("http://b")], { token: async () => "t", onstatus: ({ reason }) => reason.length });
for await (const update of client.follow({ node: "n", job: "j", history: 5 })) {
  const index: number = update.index;
  const step: unknown = update.state.step;
  // @ts-expect-error: without events there are none
  update.type;
  void [index, step];
}
for await (const item of client.follow<{ step: number }>({ node: "n", after: "c", events: true })) {
  if ("type" in item) {
    const event: FollowEvent = item;
    if (event.type === "gap") void (event.to - event.from);
  } else {
    const update: Update<{ step: number }> = item;
    void (update.state.step + 1);
  }
}
const follow = client.follow({ job: "j" });
const cursor: string | undefined = follow.cursor;
// @ts-expect-error: the loop moves it
follow.cursor = "other";
// @ts-expect-error: it is a number or a word
client.follow({ node: "n", history: "some" });
void [cursor, new Error() instanceof GapError];
client.close();
