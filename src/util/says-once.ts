/** For what may be begun anew another way: it finds the same again, and says it once. */
export function saysOnce(say: (text: string) => void): (text: string) => void {
  const said = new Set<string>();
  return (text) => {
    if (!said.has(text)) say(text);
    said.add(text);
  };
}
